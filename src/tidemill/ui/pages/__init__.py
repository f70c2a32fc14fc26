"""Every page of the site, one module each."""

from tidemill.ui.page import Page
from tidemill.ui.pages import actions, job, jobs, schedules

PAGES: tuple[Page, ...] = (*jobs.PAGES, *job.PAGES, *actions.PAGES, *schedules.PAGES)
