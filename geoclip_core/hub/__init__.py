"""Models from elsewhere: the catalogue, downloads, pushing to a hub. Just below the locator."""
