from .form import dense_form as dense_form
