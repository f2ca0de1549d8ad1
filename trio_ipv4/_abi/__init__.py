"""How one platform's kernel spells things. Pure: a platform is a value, not an `if`."""
