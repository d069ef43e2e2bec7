"""The server: releases of the store answer on the wire. No torch, no mlflow, no registry."""
