"""A/B comparison: the same call on two backends; is it the same picture, and what does it cost?"""
