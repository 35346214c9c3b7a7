"""The app and its first page, the Map: ``streamlit run app.py``.

The server imports this file for ``app``, and runs it to draw the Map page.
"""

from streamlit import App, runtime

if runtime.exists():
    from ui.map_page import map_page

    map_page()
else:
    from ui.page import page_failed
    from ui.server import guards, routes

    app = App(__file__, middleware=guards(), routes=routes(), on_script_error=page_failed)
