"""Speed, measured as ratios in one run; figures here are never tests."""
