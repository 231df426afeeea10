"""What `fit` is made of: a stage, its steps, and the devices, optimizers and schedules that they run on."""
