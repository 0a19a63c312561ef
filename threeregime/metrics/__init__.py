"""Metrics of retrained nets: LMC, CKA and the Hessian."""
