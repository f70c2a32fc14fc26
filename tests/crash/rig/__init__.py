"""What the crash tests are made of: jobs, process trees, a look into the store, records."""
