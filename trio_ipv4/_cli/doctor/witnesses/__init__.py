"""The witnesses: each module looks at one thing, says what it needs and what it disturbs, and concludes nothing."""
