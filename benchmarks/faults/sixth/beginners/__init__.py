"""What beginners get wrong in coursework, in notebooks, and in their first projects."""
