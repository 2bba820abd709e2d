"""Load on a running service: `make bench` measures it beside simpler servers, the locustfile plays its controllers."""
