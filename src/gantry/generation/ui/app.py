"""The page, which Streamlit runs again when a slider is moved: `app.py <generator's folder> <trusted>...`."""

import base64
import io
import shlex
import sys
from pathlib import Path

import streamlit as st
from PIL import Image

from gantry.core.text import show, typed_command
from gantry.data.grid import GRID
from gantry.generation.ui.server import loaded, picture

UNCUT = 3.0  # upper end of the slider of truncation, which means no truncation

folder, trusted = Path(sys.argv[1]), tuple(sys.argv[2:])


st.set_page_config(page_title="Gantry", layout="wide")


shown = loaded(folder, trusted)


with st.sidebar:
    names = shown.classes.names if shown.classes else ()
    # By number: a class may be called anything, and two may be called alike.
    label = (
        st.selectbox("class", [None, *range(len(names))], format_func=lambda k: "all" if k is None else names[k])
        if names
        else None
    )
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
    command = f"{typed_command('sample')} run={show(folder)} n={count} seed={seed}" + (
        f" truncation={cut}" if cut else ""
    )
    if label is not None:
        named = names[label] if names.index(names[label]) == label else label
        command += f" {shlex.quote(f'class={named}')}"
    st.caption(f"Without directions: `{command}`")


image = io.BytesIO()


Image.fromarray(picture(shown, seed, count, cut, along, label)).save(image, format="PNG", compress_level=1)


# Embed the image in the page: while a slider moves, Streamlit deletes files before the browser requests them.
st.image(f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}")
