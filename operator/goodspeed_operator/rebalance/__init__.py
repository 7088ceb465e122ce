"""Decisions of the slow loop: where drafters go, how many, with which budget."""
