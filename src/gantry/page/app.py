"""What Streamlit runs anew whenever somebody moves a slider: `app.py <generator's folder> <trusted>...`."""

import sys
from pathlib import Path

import streamlit as st

from gantry.page import loaded, picture
from gantry.sampling import GRID

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
    st.caption(f"python sample.py run={folder} seed={seed} n={count}")

st.image(picture(shown, seed, count, None if limit == UNCUT else limit, along), output_format="PNG")
