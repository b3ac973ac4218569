"""The pages, one module per noun; `PAGES` is every address with what answers it."""

from stratal.console.pages import overview, predictions
from stratal.console.view import Page

PAGES: dict[str, Page] = {
    "/": overview.home,
    "/projects/{project}": overview.overview,
    "/projects/{project}/why": predictions.ask,
    "/predictions/{prediction}": predictions.why,
}
