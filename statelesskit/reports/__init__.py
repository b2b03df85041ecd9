"""What clients say they run: the door it comes in by, who is believed, and how it gets into the directory."""
