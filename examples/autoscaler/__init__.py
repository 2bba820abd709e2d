"""A replica autoscaler: a simulated service, a policy trained for it, and the control loop that asks actd."""
