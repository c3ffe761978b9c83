"""Stand-ins for what runnerctl talks to. Each enters through a door that users have too."""
