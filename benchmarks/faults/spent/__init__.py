"""Programs that were held out once: rules have been mended since because of some of them."""
