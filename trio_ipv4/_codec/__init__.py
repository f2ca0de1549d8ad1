"""Pure, and not public: rtnetlink, the table of interfaces, explicit steps, the plan of a change of filters."""
