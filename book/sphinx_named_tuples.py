"""Keep "Alias for field number 0" off the library's page: the fields stand under Attributes."""


def skip_field(app, what, name, item, skip, options):
    """Skip what `typing.NamedTuple` makes for each field."""
    return True if type(item).__name__ == "_tuplegetter" else None


def setup(app):
    """Register the hook with Sphinx."""
    app.connect("autodoc-skip-member", skip_field)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
