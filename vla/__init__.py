"""The reference vision-language-action model of the RoboVLMs family: heavy imports stay here."""
