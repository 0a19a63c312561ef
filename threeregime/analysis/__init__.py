"""Phase diagrams and what can be read off them."""
