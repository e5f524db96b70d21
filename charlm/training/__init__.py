"""How a model learns: the loop, the update rules, the device, the history, the processes."""
