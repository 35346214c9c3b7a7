"""A visitor of the running app without a browser: opens pages over the app's websocket."""

from urllib.parse import urlsplit

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

SECONDS = 120


class Visitor:
    """One session. ``text`` is everything that the server sent for the latest run of a page."""

    def __init__(self, address, **headers):
        place = urlsplit(address)
        self._opened = connect(
            f"ws://{place.netloc}/_stcore/stream",
            subprotocols=["streamlit"],
            additional_headers=headers,
            max_size=None,
        )
        self._socket = None
        self._elements = []
        self.text = ""

    def __enter__(self):
        self._socket = self._opened.__enter__()
        return self

    def __exit__(self, *error):
        self._opened.__exit__(*error)

    def open(self, page, typed=None):
        """Run a page of the app, with texts typed into fields: label -> text."""
        message = BackMsg()
        message.rerun_script.page_name = page
        for label, text in (typed or {}).items():
            state = message.rerun_script.widget_states.widgets.add()
            state.id, state.string_value = self._field(label), text
        self._socket.send(message.SerializeToString())
        self._elements, parts = [], []
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(self._socket.recv(timeout=SECONDS))
            kind = answer.WhichOneof("type")
            if kind == "delta":
                self._elements.append(answer.delta.new_element)
                parts.append(str(answer))
            if kind == "script_finished":
                self.text = "\n".join(parts).replace("\\\\", "")
                return self

    def labels(self):
        """The labels of the text fields, buttons and upload fields of the page."""
        kinds = ("text_input", "button", "file_uploader", "download_button", "toggle")
        return [
            getattr(element, kind).label
            for element in self._elements
            for kind in kinds
            if element.WhichOneof("type") == kind
        ]

    def _field(self, label):
        (found,) = (e.text_input.id for e in self._elements if e.text_input.label == label)
        return found
