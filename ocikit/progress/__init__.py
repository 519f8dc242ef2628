"""Progress events of transfers, and the bars that show them."""
