"""Image geolocation: a photo in, latitude and longitude out, on your own machine."""
