"""Everything around the network: data, training, evaluation, checkpoints, logs."""
