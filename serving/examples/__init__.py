"""How to call what LeanRec serves, in a screenful each; none of them needs LeanRec itself."""
