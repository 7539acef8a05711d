"""What each paper defines, as small objects built on the ops."""
