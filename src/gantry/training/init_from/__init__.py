"""Begins a new run with trained weights (`init_from=`): finds them, matches them with the new networks, loads them."""
