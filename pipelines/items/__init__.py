"""What the rooms of data do with pictures and messages: one file a room, of the same name."""
