"""What puts Yoban onto machines: chart, image, lab cluster. Not part of any distribution."""
