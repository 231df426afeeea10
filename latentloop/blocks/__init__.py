"""How any module is made a block: what it declares, how it is called, what is tried first, what a step may change."""
