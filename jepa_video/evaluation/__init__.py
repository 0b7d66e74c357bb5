"""From a frozen encoder to numbers, pictures and a page that a person reads."""
