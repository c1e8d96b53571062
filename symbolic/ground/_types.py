"""Shape strings of the array annotations; each backend binds them to its own array type."""

STATE = "*#batch n_states"
RESIDUAL = "*#batch n_residuals"
JACOBIAN = "*#batch n_residuals n_states"
LOCAL_JACOBIAN = "*#batch n_instances n_local local_states"
DIAGONAL_BLOCKS = "*#batch n_instances n_local n_local"
OFF_BLOCKS = "*#batch n_pairs n_local n_local"
