"""The intermediate representation that analyses read: typed primitives, and programs of them."""
