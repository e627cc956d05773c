//! Load generator, transport ping and instruction budgets.
