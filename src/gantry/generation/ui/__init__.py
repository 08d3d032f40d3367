"""Serves a page with sliders for one generator on the loopback interface."""
