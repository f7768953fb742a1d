"""Model cards: written from what was measured, with what people wrote into them kept."""
