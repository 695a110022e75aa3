"""`tallystick budget`: how the budgets stand."""
