"""The script that Streamlit runs for each viewer: the frame around the page that the address names."""

from __future__ import annotations

import streamlit as st

from tallystick.dashboard import parts
from tallystick.dashboard.pages import NAMES, page
from tallystick.dashboard.theme import style

# Drawn here, because Streamlit lets the browser fetch a named icon from a font server on the internet.
ICON = (
    '<svg viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#0072B2"/>'
    '<path d="M8 7v18M13 7v18M18 7v18M23 7v18M5 20 27 12" stroke="#fff" stroke-width="2.4" stroke-linecap="round"/>'
    "</svg>"
)

st.set_page_config(page_icon=ICON, layout="wide")
shown = st.navigation([page(name) for name in NAMES], position="top")
st.set_page_config(page_title=f"{shown.title} · Tallystick")
st.html(style(shown.title))
parts.begin()
parts.carry(shown.url_path)
shown.run()
