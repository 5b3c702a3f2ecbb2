"""What the services share; it imports none of them."""
