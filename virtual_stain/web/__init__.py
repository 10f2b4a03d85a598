"""The pages for people: the pathologist's review, and scoring a slide. Needs the extra `web`; never TensorFlow."""
