"""What is pure and not public: rtnetlink, the table of interfaces, the steps of the explicit operations."""
