"""One file for each resource.

A file has a `router = door("/things", "things")`; each endpoint says by `@needs(Action.X)` who may call
it, right under the router's decorator. Endpoints are `def` (they run in threads, the store is sync),
take `context: Here` and `who: Who`, call one function of `service` and return a type of `wire.api`.
Statuses of errors that may come beside the usual ones are documented with `responses=problems(404)`.
A line in `api.app.ROUTERS` makes the file part of the API.
"""
