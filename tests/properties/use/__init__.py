"""What users may do with every layer, loss and metric, and what they are told."""
