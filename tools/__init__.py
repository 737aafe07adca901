"""What runs the chapters and builds the site around them. Run from the repository's root."""
