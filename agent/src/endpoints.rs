//! Endpoints: the join of neighbours, forwarding entries and ports of our bridges. Pure.
