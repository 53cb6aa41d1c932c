"""What the drawn faces are made of: the shape of a face, a person, a canvas, paint, hair and a scene."""
