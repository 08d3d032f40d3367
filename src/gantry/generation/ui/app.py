"""The page, run anew by Streamlit whenever somebody moves a slider: `app.py <generator's folder> <trusted>...`."""

import base64
import io
import sys
from pathlib import Path

import streamlit as st
from PIL import Image

from gantry.core.text import show
from gantry.data.grid import GRID
from gantry.generation.ui.server import loaded, picture

UNCUT = 3.0  # where the slider of truncation ends: no truncation

folder, trusted = Path(sys.argv[1]), tuple(sys.argv[2:])


st.set_page_config(page_title="Gantry", layout="wide")


shown = loaded(folder, trusted)


with st.sidebar:
    seed = st.slider("seed", 0, 999, 0)
    count = st.slider("images", 1, GRID * GRID, GRID * GRID)
    limit = st.slider(
        "truncation", 0.1, UNCUT, UNCUT, 0.1, help=f"nearer 0: typical images, less varied; {UNCUT:g}: none"
    )
    along = (
        st.slider("first direction", -4.0, 4.0, 0.0, 0.1, help="in standard deviations of the noise"),
        st.slider("second direction", -4.0, 4.0, 0.0, 0.1, help="in standard deviations of the noise"),
    )
    cut = None if limit == UNCUT else limit
    command = f"python sample.py run={show(folder)} n={count} seed={seed}" + (f" truncation={cut}" if cut else "")
    st.caption(f"Without directions: `{command}`")


image = io.BytesIO()


Image.fromarray(picture(shown, seed, count, cut, along)).save(image, format="PNG", compress_level=1)


# Within the page: while a slider moves Streamlit forgets files before the browser has asked for them.
st.image(f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}")
