"""Images or videos of a person to a capture: frames, landmarks, masks, cameras, body fits and quality control."""
