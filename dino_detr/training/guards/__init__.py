"""What watches over a run: it ends, or is explained, with a reason and what to do instead of going on in silence."""
